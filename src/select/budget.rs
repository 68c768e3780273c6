//! How many parameters a selection may train: a count, or a share of the base model.
//!
//! ```
//! use autopeft::select::Budget;
//! let budget: Budget = "0.1%".parse()?;
//! assert_eq!(budget.resolve(22_713_216)?, 22_713);
//! assert_eq!("10k".parse::<Budget>()?.resolve(22_713_216)?, 10_000);
//! # Ok::<(), autopeft::select::BudgetError>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A limit on the number of trainable parameters; the task head is not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// So many parameters.
    Count(usize),
    /// Percent of the base model's parameters, above 0 and at most 100.
    Percent(f64),
}

/// A budget that cannot be read or makes no sense for this model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// Not a number with an optional unit.
    #[error("`{text}` is not a budget")]
    Unreadable {
        /// What was given.
        text: String,
    },
    /// Zero or negative.
    #[error("the budget `{text}` is not positive")]
    NotPositive {
        /// What was given.
        text: String,
    },
    /// A share above 100 %.
    #[error("the budget `{text}` is more than 100 % of the model")]
    AboveWhole {
        /// What was given.
        text: String,
    },
    /// A count that is not whole.
    #[error("the budget `{text}` is not a whole number of parameters")]
    Fraction {
        /// What was given.
        text: String,
    },
    /// A share so small that it is less than one parameter.
    #[error("the budget `{budget}` is less than one of the model's {parameters} parameters")]
    LessThanOne {
        /// The budget.
        budget: String,
        /// Parameters of the base model.
        parameters: usize,
    },
    /// A count above the size of the base model.
    #[error("the budget of {budget} parameters is more than the model's {parameters}")]
    AboveModel {
        /// The budget.
        budget: usize,
        /// Parameters of the base model.
        parameters: usize,
    },
}

impl BudgetError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreadable { .. } => {
                "write a share as `0.1%`, or a count as `10000`, `10k` or `1.5M`".into()
            }
            Self::NotPositive { .. } => {
                "give at least one parameter, for example `10k` or `0.1%`".into()
            }
            Self::AboveWhole { .. } => "give a share of at most `100%`".into(),
            Self::Fraction { text } if format!("{text}%").parse::<Budget>().is_ok() => {
                format!("did you mean `{text}%`?")
            }
            Self::Fraction { .. } => "give a whole number of parameters".into(),
            Self::LessThanOne { .. } => "give a larger share, or a count such as `10k`".into(),
            Self::AboveModel { parameters, .. } => format!("give at most `{parameters}`"),
        };
        Some(hint)
    }
}

impl Budget {
    /// The limit in parameters, for a base model of `base_parameters`. Shares are rounded down.
    ///
    /// # Errors
    /// When the limit is below one parameter or above the size of the base model.
    pub fn resolve(self, base_parameters: usize) -> Result<usize, BudgetError> {
        match self {
            Self::Count(0) => Err(BudgetError::NotPositive {
                text: self.to_string(),
            }),
            Self::Count(count) if count > base_parameters => Err(BudgetError::AboveModel {
                budget: count,
                parameters: base_parameters,
            }),
            Self::Count(count) => Ok(count),
            Self::Percent(percent) => {
                check_percent(percent, &self.to_string())?;
                let exact = base_parameters as f64 * percent / 100.0;
                // `0.1 %` of 3,000 must be 3 although 0.1 has no finite binary form.
                let count = (exact * (1.0 + 1e-12)).floor() as usize;
                if count == 0 {
                    let budget = self.to_string();
                    return Err(BudgetError::LessThanOne {
                        budget,
                        parameters: base_parameters,
                    });
                }
                Ok(count.min(base_parameters))
            }
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    /// Reads `0.1%`, `10000`, `10_000`, `10k`, `1.5M` or `1B`; units in either case.
    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let text = text.trim();
        let owned = || text.to_owned();
        let (number, unit) = match text.char_indices().next_back() {
            Some((at, '%')) => (&text[..at], None),
            Some((at, 'k' | 'K')) => (&text[..at], Some(1e3)),
            Some((at, 'm' | 'M')) => (&text[..at], Some(1e6)),
            Some((at, 'b' | 'B' | 'g' | 'G')) => (&text[..at], Some(1e9)),
            _ => (text, Some(1.0)),
        };
        let digits: String = number.trim().chars().filter(|&c| c != '_').collect();
        // `f64` would also read `inf`, `nan` and `1e9`, none of which is a sensible budget.
        if !digits
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))
        {
            return Err(BudgetError::Unreadable { text: owned() });
        }
        let number: f64 = digits
            .parse()
            .map_err(|_| BudgetError::Unreadable { text: owned() })?;
        if number <= 0.0 {
            return Err(BudgetError::NotPositive { text: owned() });
        }
        let Some(unit) = unit else {
            check_percent(number, text)?;
            return Ok(Self::Percent(number));
        };
        let count = number * unit;
        if (count - count.round()).abs() > 1e-6 {
            return Err(BudgetError::Fraction { text: owned() });
        }
        // Beyond 2^53 an `f64` no longer holds every whole number.
        if count > 9e15 {
            return Err(BudgetError::Unreadable { text: owned() });
        }
        Ok(Self::Count(count.round() as usize))
    }
}

impl fmt::Display for Budget {
    /// Writes what [`Budget::from_str`] reads back to the same budget.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count as u64),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    /// Accepts a text such as `0.1%`, or a whole number of parameters.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BudgetVisitor;
        impl Visitor<'_> for BudgetVisitor {
            type Value = Budget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a budget such as `0.1%`, `10k` or `10000`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Budget, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Budget, E> {
                count.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Budget, E> {
                count.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(BudgetVisitor)
    }
}

/// Refuses a share outside (0, 100] percent; `text` is what the message quotes.
fn check_percent(percent: f64, text: &str) -> Result<(), BudgetError> {
    if percent.is_nan() || percent <= 0.0 {
        return Err(BudgetError::NotPositive {
            text: text.to_owned(),
        });
    }
    if percent > 100.0 {
        return Err(BudgetError::AboveWhole {
            text: text.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Budget, BudgetError> {
        text.parse()
    }

    #[test]
    fn counts_and_shares_are_read() {
        for (text, budget) in [
            ("0.1%", Budget::Percent(0.1)),
            ("100 %", Budget::Percent(100.0)),
            ("10000", Budget::Count(10_000)),
            ("10_000", Budget::Count(10_000)),
            ("10k", Budget::Count(10_000)),
            (" 1.5M ", Budget::Count(1_500_000)),
            ("41.5K", Budget::Count(41_500)),
            ("1B", Budget::Count(1_000_000_000)),
        ] {
            assert_eq!(parse(text), Ok(budget), "{text}");
        }
    }

    #[test]
    fn senseless_budgets_are_refused_with_a_hint() {
        for text in ["0", "0%", "-3", "-0.1%", "0k"] {
            assert!(
                matches!(parse(text), Err(BudgetError::NotPositive { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parse("100.5%"),
            Err(BudgetError::AboveWhole { .. })
        ));
        for text in [
            "",
            "%",
            "k",
            "ten",
            "inf",
            "nan%",
            "1e5",
            "1.2.3",
            "10 kk",
            "99999999999999999999",
            "é",
        ] {
            assert!(
                matches!(parse(text), Err(BudgetError::Unreadable { .. })),
                "{text}"
            );
        }
        let error = parse("0.1").unwrap_err();
        assert!(matches!(error, BudgetError::Fraction { .. }));
        assert_eq!(error.hint().unwrap(), "did you mean `0.1%`?");
        assert_eq!(
            parse("1.2345k").unwrap_err().hint().unwrap(),
            "give a whole number of parameters"
        );
    }

    #[test]
    fn shares_resolve_against_the_base_model() {
        assert_eq!(Budget::Percent(0.1).resolve(3_000), Ok(3));
        assert_eq!(Budget::Percent(0.3).resolve(22_713_216), Ok(68_139));
        assert_eq!(Budget::Percent(100.0).resolve(7), Ok(7));
        assert!(matches!(
            Budget::Percent(0.1).resolve(999),
            Err(BudgetError::LessThanOne { .. })
        ));
        assert!(matches!(
            Budget::Count(8).resolve(7),
            Err(BudgetError::AboveModel { .. })
        ));
        assert!(matches!(
            Budget::Count(0).resolve(7),
            Err(BudgetError::NotPositive { .. })
        ));
        assert!(matches!(
            Budget::Percent(f64::NAN).resolve(7),
            Err(BudgetError::NotPositive { .. })
        ));
    }

    #[test]
    fn serde_reads_texts_and_whole_numbers() {
        for text in ["\"0.1%\"", "10000"] {
            let budget: Budget = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&budget).unwrap(), text);
        }
        for text in ["0", "-1", "0.001", "\"x\"", "null"] {
            assert!(serde_json::from_str::<Budget>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(crate::select::fixed_cases(256))]

        #[test]
        fn display_reads_back_to_the_same_budget(count in 1..9_000_000_000_000_000_usize, percent in 1e-9..=100.0_f64) {
            prop_assert_eq!(parse(&Budget::Count(count).to_string()), Ok(Budget::Count(count)));
            prop_assert_eq!(parse(&Budget::Percent(percent).to_string()), Ok(Budget::Percent(percent)));
        }
    }
}
