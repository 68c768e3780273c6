//! What a row teaches, and what the rows of a batch teach together.

/// What one row teaches.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The index of its class.
    Class(u32),
    /// A number for each output: regression.
    Numbers(Vec<f64>),
    /// For each label whether the row has it: several may hold at once.
    Flags(Vec<bool>),
}

/// What the rows of a batch teach, on the host, by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Class indices.
    Classes(Vec<u32>),
    /// Numbers, by row and output.
    Numbers(Vec<Vec<f64>>),
    /// Whether a label holds, by row and label.
    Flags(Vec<Vec<bool>>),
}

impl Targets {
    /// The targets of these rows; `None` where a row has none, or rows have different kinds.
    pub fn gather<'a>(rows: impl Iterator<Item = Option<&'a Target>>) -> Option<Self> {
        let mut rows = rows.peekable();
        Some(match rows.peek().copied().flatten()? {
            Target::Class(_) => Self::Classes(
                rows.map(|row| match row {
                    Some(Target::Class(class)) => Some(*class),
                    _ => None,
                })
                .collect::<Option<_>>()?,
            ),
            Target::Numbers(_) => Self::Numbers(
                rows.map(|row| match row {
                    Some(Target::Numbers(numbers)) => Some(numbers.clone()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
            ),
            Target::Flags(_) => Self::Flags(
                rows.map(|row| match row {
                    Some(Target::Flags(flags)) => Some(flags.clone()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
            ),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(rows) => rows.len(),
            Self::Numbers(rows) => rows.len(),
            Self::Flags(rows) => rows.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
