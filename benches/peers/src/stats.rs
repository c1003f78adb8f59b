//! Medians, spreads and how to print them.

use std::str;

/// The value in the middle, and the ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` where there is nothing to order.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        // One and the same place where the length is odd.
        let middle = [(values.len() - 1) / 2, values.len() / 2];
        let median = f64::midpoint(values[middle[0]], values[middle[1]]);
        Some(Self { median, min, max })
    }
}

/// The value below which `share` (0 to 1) of a sorted list lies.
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
}

/// Three significant digits, with commas between thousands.
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if magnitude < 2 {
        let text = format!("{value:.*}", (2 - magnitude).clamp(0, 3) as usize);
        return text;
    }
    thousands(value.round() as i64)
}

/// A whole number with commas between thousands.
pub fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut groups: Vec<&str> =
        digits.as_bytes().rchunks(3).map(|group| str::from_utf8(group).unwrap_or_default()).collect();
    groups.reverse();
    format!("{}{}", if value < 0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_reach_both_ends() {
        let list = [10, 20, 30];
        assert_eq!([0.0, 0.5, 1.0].map(|share| percentile(&list, share)), [10, 20, 30]);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn figures_keep_three_digits() {
        let shown = [0.0, 0.0123, 1.234, 45.67, 99.96, 345.6, 1_234_567.0].map(figure);
        assert_eq!(shown, ["0", "0.012", "1.23", "45.7", "100.0", "346", "1,234,567"]);
    }
}
