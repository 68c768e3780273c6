//! What a row teaches, and what the rows of a batch teach together.

use super::encode::EncodedRow;

/// What one row teaches.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The index of its class.
    Class(u32),
    /// A number for each output: regression.
    Numbers(Vec<f64>),
    /// For each label whether the row has it: several may hold at once.
    Flags(Vec<bool>),
    /// For each token of the row whether it is learned, from those before it.
    Tokens(Vec<bool>),
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
    /// Tokens that follow others.
    Tokens(TokenTargets),
}

/// The tokens of a padded batch that are predicted, each from the hidden state of the token before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTargets {
    /// Where the predicting hidden states stand among all of the batch, (batch · length), ascending.
    pub places: Vec<u32>,
    /// The tokens that follow there.
    pub labels: Vec<u32>,
    /// How many of them each row has.
    pub counts: Vec<usize>,
}

impl TokenTargets {
    fn of(rows: &[&EncodedRow], length: usize) -> Option<Self> {
        let mut targets = Self::default();
        for (number, row) in rows.iter().enumerate() {
            let Some(Target::Tokens(marks)) = &row.target else {
                return None;
            };
            let before = targets.labels.len();
            let marked = row.input_ids.iter().zip(marks).enumerate().skip(1);
            for (at, (id, _)) in marked.filter(|(_, (_, mark))| **mark) {
                targets
                    .places
                    .push(u32::try_from(number * length + at - 1).ok()?);
                targets.labels.push(*id);
            }
            targets.counts.push(targets.labels.len() - before);
        }
        Some(targets)
    }
}

impl Targets {
    /// The targets of the rows of a batch that is padded to `length`; `None` where a row has none, or rows have
    /// different kinds.
    pub(super) fn gather(rows: &[&EncodedRow], length: usize) -> Option<Self> {
        match rows.first()?.target.as_ref()? {
            Target::Tokens(_) => TokenTargets::of(rows, length).map(Self::Tokens),
            _ => Self::of(rows.iter().map(|row| row.target.as_ref())),
        }
    }

    /// The targets of examples; `None` where one has none, they have different kinds, or are tokens, which mean
    /// nothing without their rows.
    pub fn of<'a>(examples: impl Iterator<Item = Option<&'a Target>>) -> Option<Self> {
        let mut rows = examples.peekable();
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
            Target::Tokens(_) => return None,
        })
    }

    /// The targets of the same batch several times, one copy after the other; one has `size` places for tokens, (batch · length).
    pub(super) fn repeated(&self, copies: usize, size: usize) -> Self {
        match self {
            Self::Classes(rows) => Self::Classes(rows.repeat(copies)),
            Self::Numbers(rows) => Self::Numbers(vec![rows.as_slice(); copies].concat()),
            Self::Flags(rows) => Self::Flags(vec![rows.as_slice(); copies].concat()),
            Self::Tokens(targets) => Self::Tokens(TokenTargets {
                places: (0..copies)
                    .flat_map(|copy| {
                        (targets.places.iter()).map(move |place| place + (copy * size) as u32)
                    })
                    .collect(),
                labels: targets.labels.repeat(copies),
                counts: targets.counts.repeat(copies),
            }),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(rows) => rows.len(),
            Self::Numbers(rows) => rows.len(),
            Self::Flags(rows) => rows.len(),
            Self::Tokens(targets) => targets.counts.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
