//! Resource quantities: `100m`, `1.5Gi`, `2e3`; exact, with the canonical form Kubernetes stores.

use std::cmp::Ordering;
use std::fmt;

/// Smallest unit kept: 10⁻⁹. Finer values round away from zero, as in Kubernetes.
const NANO: i128 = 1_000_000_000;
/// Largest decimal exponent whose power of ten still fits beside the nano scale.
const MAX_EXPONENT: i32 = 28;

/// The notation a quantity was written in; kept when it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`, ...
    DecimalSi,
    /// `Ki`, `Mi`, ...
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// Why a quantity was refused, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The digits cannot be read, or the number is beyond 10²⁸.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// Unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Ordering and equality are by amount, whatever the notation.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Parses the wire form.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let (scale, format) = interpret_suffix(suffix)?;
        let mut nanos = scale_digits(whole, fraction, scale).ok_or(QuantityError::Numeric)?;
        let mut format = format;
        if format == Format::BinarySi {
            // Kubernetes caps binary amounts at what an int64 holds.
            nanos = nanos.min(i128::from(i64::MAX) * NANO);
            if nanos > 0 && nanos < NANO {
                format = Format::DecimalSi;
            }
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Reads a JSON quantity: a string, or a number as manifests may have it.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, QuantityError> {
        match value {
            serde_json::Value::String(s) => Self::parse(s),
            serde_json::Value::Number(n) => Self::parse(&n.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    /// The amount in whole units, rounded away from zero (as `Value()` in Kubernetes), saturating.
    pub fn value(self) -> i64 {
        saturate(div_away(self.nanos, NANO))
    }

    /// The amount in thousandths, rounded away from zero, saturating.
    pub fn milli_value(self) -> i64 {
        saturate(div_away(self.nanos, NANO / 1000))
    }

    /// Nearest floating-point number, for ratios only.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// The notation.
    pub fn format(self) -> Format {
        self.format
    }

    /// -1, 0 or 1.
    pub fn signum(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// True for whole units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// True when nothing finer than thousandths is in it.
    pub fn is_milli_exact(self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    /// Rounded away from zero to whole thousandths.
    pub fn round_up_milli(self) -> Self {
        Self { nanos: div_away(self.nanos, NANO / 1000) * (NANO / 1000), format: self.format }
    }

    /// Sum in the notation of `self` (of `other` when `self` is zero); `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let format = if self.nanos == 0 { other.format } else { self.format };
        self.nanos.checked_add(other.nanos).map(|nanos| Self { nanos, format })
    }

    /// Difference, like [`Quantity::checked_add`].
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        let format = if self.nanos == 0 { other.format } else { self.format };
        self.nanos.checked_sub(other.nanos).map(|nanos| Self { nanos, format })
    }
}

/// Power of two or ten that a suffix stands for.
enum Scale {
    Two(u32),
    Ten(i32),
}

fn interpret_suffix(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let scale = match suffix {
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "" => Scale::Ten(0),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        _ => {
            let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) else {
                return Err(if suffix.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b)) {
                    QuantityError::Suffix
                } else {
                    QuantityError::Format
                });
            };
            let exponent = exponent.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
            return Ok((Scale::Ten(exponent), Format::DecimalExponent));
        }
    };
    let format = if matches!(scale, Scale::Two(_)) { Format::BinarySi } else { Format::DecimalSi };
    Ok((scale, format))
}

/// `whole.fraction × scale` in nanos, rounded up; `None` when it does not fit.
fn scale_digits(whole: &str, fraction: &str, scale: Scale) -> Option<i128> {
    let digits: String = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return Some(0);
    }
    let places = i32::try_from(fraction.len()).ok()?;
    let exponent = match scale {
        Scale::Ten(e) => e.checked_sub(places)?,
        Scale::Two(_) => -places,
    };
    // Value = digits × 10^exponent [× 2^bits]; in nanos × 10^9.
    let power = exponent.checked_add(9)?;
    let (digits, power, sticky) = drop_excess(&digits, power)?;
    let mut nanos: i128 = digits.parse().ok()?;
    if let Scale::Two(bits) = scale {
        nanos = nanos.checked_mul(1_i128 << bits)?;
    }
    if power >= 0 {
        if power > MAX_EXPONENT + 9 {
            return None;
        }
        return nanos.checked_mul(10_i128.checked_pow(power.unsigned_abs())?);
    }
    let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
    let rounded = nanos / divisor + i128::from(nanos % divisor != 0 || sticky);
    Some(rounded)
}

/// Cuts digits far below a nano so that the arithmetic fits: `(digits, power, anything non-zero was cut)`.
fn drop_excess(digits: &str, power: i32) -> Option<(String, i32, bool)> {
    /// Fractional digits kept below the nano: enough to see any multiple of 2⁶⁰ exactly where it matters.
    const KEEP: i32 = 18;
    if power >= -KEEP {
        return Some((digits.to_owned(), power, false));
    }
    let cut = usize::try_from(-KEEP - power).ok()?;
    if cut >= digits.len() {
        // Leading digit is non-zero, so something is left: it rounds up to one nano.
        return Some(("0".to_owned(), -1, true));
    }
    let (kept, lost) = digits.split_at(digits.len() - cut);
    Some((kept.to_owned(), -KEEP, lost.bytes().any(|b| b != b'0')))
}

fn div_away(n: i128, d: i128) -> i128 {
    n / d + (n % d).signum()
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_integer() {
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let mut n = self.nanos / NANO;
            let mut i = 0;
            while n % 1024 == 0 && i + 1 < SUFFIXES.len() {
                n /= 1024;
                i += 1;
            }
            return write!(f, "{n}{}", SUFFIXES[i]);
        }
        let mut n = self.nanos;
        let mut exponent = -9;
        while n % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            n /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{n}") } else { write!(f, "{n}e{exponent}") };
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let index = usize::try_from((exponent + 9) / 3).unwrap_or(0).min(SUFFIXES.len() - 1);
        write!(f, "{n}{}", SUFFIXES[index])
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

#[cfg(test)]
mod tests;
