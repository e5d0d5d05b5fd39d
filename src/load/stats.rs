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

/// Where the median of all runs there could be lies with 95 % confidence, by the order of these; `None` of fewer than six,
/// which say nothing of it.
pub(super) fn median_range(values: &[f64]) -> Option<[f64; 2]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // How many of the runs are below their true median is binomial. Of each side as many runs are left out as leave 2.5 %.
    let (mut below, mut chance, mut left_out) = (0.0, 0.5_f64.powi(i32::try_from(count).ok()?), 0);
    for number in 0..count / 2 {
        below += chance;
        if below > 0.025 {
            break;
        }
        left_out = number + 1;
        chance *= float((count - number) as u64) / float((number + 1) as u64);
    }
    let low = left_out.checked_sub(1)?;
    Some([*sorted.get(low)?, *sorted.get(count - 1 - low)?])
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
        // The tables of the sign test: of six runs all, of 11 the second to the tenth, of 41 the 14th to the 28th.
        let runs = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_range(&runs(5)), None);
        assert_eq!(median_range(&runs(6)), Some([1.0, 6.0]));
        assert_eq!(median_range(&runs(11)), Some([2.0, 10.0]));
        assert_eq!(median_range(&runs(41)), Some([14.0, 28.0]));
        assert_eq!(round(0.123_456), 0.1235);
        assert_eq!(round(-1_234_567.0), -1_235_000.0);
        assert_eq!(round(0.0), 0.0);
    }
}
