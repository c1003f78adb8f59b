//! One picture.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use image::{ImageFormat, ImageReader};
use workpath::{Context, Error};

/// Whether the name is that of a picture that can be read.
pub(crate) fn is_one(path: &Path) -> bool {
    matches!(ImageFormat::from_path(path), Ok(ImageFormat::Png | ImageFormat::Jpeg))
}

/// Writes a small copy of one file to another, and gives nothing. Looks between its steps whether it is still wanted: none
/// of them takes long.
pub(crate) fn shrink(ctx: &Context, from: &Path, to: &Path, size: u32) -> Result<Vec<u8>, Error> {
    ctx.check()?;
    // Decided by what is in it: names lie.
    let picture = ImageReader::open(from)?.with_guessed_format()?.decode().map_err(Error::new)?;
    ctx.check()?;
    let small =
        if picture.width().max(picture.height()) > size { picture.thumbnail(size, size) } else { picture };
    ctx.check()?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = to.with_extension("part");
    let written = write(&part, |out| small.write_to(out, ImageFormat::Png).map_err(Error::new));
    match written {
        Ok(()) => fs::rename(&part, to)?,
        Err(error) => {
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    }
    Ok(Vec::new())
}

/// Creates a file and has it written.
pub(crate) fn write<E: From<std::io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut std::io::Cursor<Vec<u8>>) -> Result<(), E>,
) -> Result<(), E> {
    // In memory first: what encodes a picture wants to seek.
    let mut bytes = std::io::Cursor::new(Vec::new());
    write(&mut bytes)?;
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(bytes.get_ref())?;
    file.flush()?;
    Ok(())
}
