//! Why a selection cannot be made.

use super::budget::BudgetError;

/// Error of the selection.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// There is nothing to choose from.
    #[error("there are no groups to select from")]
    NoGroups,
    /// Two groups share a name, so a saved selection would be ambiguous.
    #[error("two groups are named `{name}`")]
    DuplicateName {
        /// The name in question.
        name: String,
    },
    /// A score is negative, infinite or not a number.
    #[error("the {what} of group `{name}` is {value}, but must be finite and not negative")]
    InvalidScore {
        /// Which score.
        what: &'static str,
        /// Group with the score.
        name: String,
        /// The score.
        value: f64,
    },
    /// The coupled measurements do not have one entry per group.
    #[error(
        "measurement {index} has {what} of length {got}, but {expected} are needed for {groups} groups"
    )]
    ShapeMismatch {
        /// Position of the measurement.
        index: usize,
        /// `slope` or `curvature`.
        what: &'static str,
        /// Length found.
        got: usize,
        /// Length needed.
        expected: usize,
        /// Number of groups.
        groups: usize,
    },
    /// A measurement holds a number that is infinite or not a number.
    #[error("measurement {index} has a {what} that is not finite")]
    NotFinite {
        /// Position of the measurement.
        index: usize,
        /// `slope` or `curvature`.
        what: &'static str,
    },
    /// No damping that was tried makes this curvature positive definite.
    #[error(
        "the curvature of measurement {index} is not positive definite, even with damping {damping:e}"
    )]
    Indefinite {
        /// Position of the measurement.
        index: usize,
        /// Greatest damping tried, absolute.
        damping: f64,
    },
    /// Coupled selection was asked for, but only diagonals were measured.
    #[error("coupled selection needs measurements of the whole curvature matrix")]
    NoCoupling,
    /// The budget cannot be read or resolved.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// Not even the smallest useful group fits the budget.
    #[error(
        "no group fits a budget of {budget} parameters; the smallest useful group has {smallest}"
    )]
    Unreachable {
        /// The budget, in parameters.
        budget: usize,
        /// Parameters of the smallest group that would be useful.
        smallest: usize,
    },
    /// No group carries any signal, whatever the budget.
    #[error("none of {groups} groups showed a measurable influence")]
    NoSignal {
        /// Number of groups outside the always kept ones.
        groups: usize,
    },
    /// Every group falls below the rule, and no head is there to be trained.
    #[error("the rule keeps none of {groups} groups")]
    NothingKept {
        /// Number of groups.
        groups: usize,
    },
    /// The rule compares with base weights, but none of them shows any influence.
    #[error(
        "the rule `psi` needs the influence of base weights as a reference, and none of them shows any"
    )]
    NoReferences,
    /// A parameter of the rule is out of its range.
    #[error("`{what}` is {value}, but must be {expected}")]
    InvalidRule {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
}

impl SelectError {
    /// What the user can do, if there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoGroups => {
                "add at least one kind of module to the superset, and exclude less of the model"
                    .into()
            }
            Self::DuplicateName { .. } => "check the grouping patterns of the recipe".into(),
            Self::InvalidScore { .. } | Self::NotFinite { .. } => {
                "the training has probably diverged: lower the learning rate".into()
            }
            Self::ShapeMismatch { .. } => return None,
            Self::Indefinite { .. } => {
                "use the `gauss-newton` estimator, whose curvature is never negative".into()
            }
            Self::NoCoupling => {
                "use the `gauss-newton` or `full` estimator, or the rule `exact`".into()
            }
            Self::Budget(error) => return error.hint(),
            Self::Unreachable { smallest, .. } => {
                format!("the smallest reachable budget is `{smallest}`")
            }
            Self::NoSignal { .. } => {
                "probe for more steps, or with more examples per measurement".into()
            }
            Self::NothingKept { .. } => "lower the threshold, or select with `budget`".into(),
            Self::NoReferences => "probe for more steps, or select with `budget`".into(),
            Self::InvalidRule { what, expected, .. } => {
                format!("set `{what}` to a value that is {expected}")
            }
        };
        Some(hint)
    }

    /// Whether this is a valid question with the answer "no" (exit code 1), and not a fault (exit code 2).
    pub fn is_answer_no(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::NoSignal { .. } | Self::NothingKept { .. }
        )
    }
}
