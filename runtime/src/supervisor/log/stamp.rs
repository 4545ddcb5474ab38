//! RFC 3339 time stamps with nine digits of a second, in UTC, never running backwards.

use crate::protocol::UnixNanos;

/// Length of `2026-11-20T18:10:00.123456789Z`.
pub(crate) const STAMP_LEN: usize = 30;

const NANOS: i64 = 1_000_000_000;
/// The last second with a year of four digits.
const LAST_SECOND: i64 = 253_402_300_799;

/// The latest stamp of one log. Its first part is rendered once a second, its last part once a read.
#[derive(Debug)]
pub(crate) struct Stamp {
    text: [u8; STAMP_LEN],
    /// What `text` says; later stamps are never before it.
    latest: i64,
    second: i64,
}

impl Stamp {
    /// A log whose records are not older than `latest`.
    pub(crate) fn new(latest: UnixNanos) -> Stamp {
        let mut stamp = Stamp {
            text: *b"0000-00-00T00:00:00.000000000Z",
            latest: 0,
            second: i64::MIN,
        };
        stamp.advance(latest);
        stamp
    }

    /// The time of the latest stamp.
    pub(crate) fn latest(&self) -> UnixNanos {
        UnixNanos(self.latest)
    }

    /// The latest stamp.
    pub(crate) fn text(&self) -> &[u8; STAMP_LEN] {
        &self.text
    }

    /// Moves on to `now`, or stays when the clock was set back.
    pub(crate) fn advance(&mut self, now: UnixNanos) -> &[u8; STAMP_LEN] {
        self.latest = now.0.max(self.latest);
        let second = (self.latest / NANOS).min(LAST_SECOND);
        if second != self.second {
            self.second = second;
            render_second(&mut self.text, second);
        }
        render_digits(&mut self.text[20..29], self.latest % NANOS);
        &self.text
    }
}

fn render_second(text: &mut [u8; STAMP_LEN], second: i64) {
    let (days, of_day) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    render_digits(&mut text[0..4], year);
    render_digits(&mut text[5..7], month);
    render_digits(&mut text[8..10], day);
    render_digits(&mut text[11..13], of_day / 3600);
    render_digits(&mut text[14..16], of_day / 60 % 60);
    render_digits(&mut text[17..19], of_day % 60);
}

fn render_digits(text: &mut [u8], mut value: i64) {
    for digit in text.iter_mut().rev() {
        // A remainder of ten is a single digit.
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last day of a year; 146,097 days make 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(nanos: i64) -> String {
        String::from_utf8(Stamp::new(UnixNanos(nanos)).text.to_vec()).unwrap()
    }

    #[test]
    fn known_instants() {
        assert_eq!(render(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            render(951_782_399 * NANOS + 999_999_999),
            "2000-02-28T23:59:59.999999999Z"
        );
        assert_eq!(render(951_782_400 * NANOS), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(
            render(1_763_662_200 * NANOS + 123_456_789),
            "2025-11-20T18:10:00.123456789Z"
        );
        assert_eq!(render(4_107_542_400 * NANOS), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_clock_set_back_does_not_turn_the_log_back() {
        let mut stamp = Stamp::new(UnixNanos(5 * NANOS));
        let before = *stamp.advance(UnixNanos(9 * NANOS + 7));
        assert_eq!(*stamp.advance(UnixNanos(3 * NANOS)), before);
        assert!(*stamp.advance(UnixNanos(9 * NANOS + 8)) > before);
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let mut last = civil(0);
        for day in 1..146_097 {
            let next = civil(day);
            let (y, m, d) = last;
            let follows = next == (y, m, d + 1) || next == (y, m + 1, 1) || next == (y + 1, 1, 1);
            assert!(follows, "{last:?} {next:?}");
            last = next;
        }
        assert_eq!(last, (2369, 12, 31));
    }
}
