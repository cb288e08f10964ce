//! Days and dates (UTC), for certificates, expiry days and the audit log.

const DAY_SECONDS: u64 = 86_400;

/// Year, month, and day (UTC) of a day counted from 1970-01-01 (proleptic Gregorian calendar).
///
/// # Source
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`, for days from
/// 1970 on.
pub(crate) const fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01; an era has 400 years.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The day counted from 1970-01-01 of a date from 1970 on; `None` for dates that do not exist.
///
/// # Source
/// As [`civil_date`]: `days_from_civil`.
pub(crate) fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_date(days) == (year, month, day)).then_some(days)
}

/// A day, as `YYYY-MM-DD` (UTC).
pub(crate) fn day_text(unix_seconds: u64) -> String {
    let (year, month, day) = civil_date(unix_seconds / DAY_SECONDS);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A time of RFC 3339 in UTC with milliseconds.
pub(crate) fn time_text(unix_millis: u64) -> String {
    let seconds = unix_millis / 1000;
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{}T{hour:02}:{minute:02}:{:02}.{:03}Z",
        day_text(seconds),
        seconds % 60,
        unix_millis % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_and_back() {
        let cases = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (10_957, (2000, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, date) in cases {
            assert_eq!(civil_date(days), date);
            assert_eq!(days_since_1970(date.0, date.1, date.2), Some(days));
        }
        for days in 0..100_000 {
            let (year, month, day) = civil_date(days);
            assert_eq!(days_since_1970(year, month, day), Some(days));
        }
        for (year, month, day) in
            [(1969, 12, 31), (2026, 2, 29), (2026, 13, 1), (2026, 4, 31), (2026, 1, 0)]
        {
            assert_eq!(days_since_1970(year, month, day), None, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn times_are_written_as_the_standard_says() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(1_767_225_599_042), "2025-12-31T23:59:59.042Z");
    }
}
