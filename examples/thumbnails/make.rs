//! Pictures to try it with.

use std::error::Error;
use std::fs;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use workpath::{Context, Delegator, JobState};

use crate::args::Args;
use crate::picture;

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;

/// So much is left of one that is spoiled: it says what it is, and no more.
const HEAD: usize = 64;

/// Pictures in one folder.
const FOLDER: usize = 50;

/// Makes the pictures that were asked for; those that are there already are made again.
pub(crate) fn pictures(delegator: &Delegator, run: &Context, args: &Args) -> Result<(), Box<dyn Error>> {
    for folder in 0..args.make.div_ceil(FOLDER) {
        fs::create_dir_all(args.from.join(format!("{folder:03}")))?;
    }
    let (from, make, spoil) = (args.from.clone(), args.make, args.spoil);
    let group = delegator.job_set().with_context(run);
    let made = group.map("make a picture", 0..make, move |_, &n| {
        // Spread over all of them.
        let is_spoiled = (n + 1) * spoil / make > n * spoil / make;
        make_one(&from, n, is_spoiled)?;
        Ok(Vec::new())
    });
    for record in made {
        let record = record?;
        if record.state() != JobState::Completed {
            return Err(record.error().map(ToString::to_string).unwrap_or_default().into());
        }
    }
    Ok(())
}

/// Rings of a colour of its own, every third picture a JPEG.
fn make_one(from: &Path, n: usize, is_spoiled: bool) -> Result<(), workpath::Error> {
    let (format, ending) = if n % 3 == 0 { (ImageFormat::Jpeg, "jpg") } else { (ImageFormat::Png, "png") };
    let path = from.join(format!("{:03}/{n:05}.{ending}", n / FOLDER));
    let hue = (n * 37 % 256) as u8;
    let picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let (dx, dy) = (x.abs_diff(WIDTH / 2), y.abs_diff(HEIGHT / 2));
        let ring = ((dx * dx + dy * dy) / 64) as u8;
        Rgb([ring ^ hue, ring.wrapping_mul(3), hue.wrapping_add((x / 4) as u8)])
    });
    picture::write(&path, |out| {
        DynamicImage::ImageRgb8(picture).write_to(out, format).map_err(workpath::Error::new)?;
        if is_spoiled {
            out.get_mut().truncate(HEAD);
        }
        Ok(())
    })
}
