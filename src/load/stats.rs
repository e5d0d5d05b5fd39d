//! Medians and spreads: the only statistics that a figure uses.

/// The median; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
    }
}

/// The smallest and the largest; zeros of nothing.
pub(super) fn spread(values: &[f64]) -> [f64; 2] {
    let low = values.iter().copied().min_by(f64::total_cmp);
    let high = values.iter().copied().max_by(f64::total_cmp);
    [low.unwrap_or(0.0), high.unwrap_or(0.0)]
}

/// Four significant digits: more would pretend to a precision that no run here has.
pub(super) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// A count as a number to divide by; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of one run stay far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: odd and even numbers of runs, none at all, figures of all sizes.
    /// Guarantees: the median is the middle or the mean of the two middles, rounding keeps four digits.
    #[test]
    fn median_spread_round() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[3.0, -1.0, 2.0]), [-1.0, 3.0]);
        assert_eq!(round(0.123_456), 0.1235);
        assert_eq!(round(-1_234_567.0), -1_235_000.0);
        assert_eq!(round(0.0), 0.0);
    }
}
