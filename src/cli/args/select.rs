//! `autopeft select`: measure, choose, export.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::common::Overrides;
use super::run::RunArgs;
use crate::recipe::{Estimator, Method, Override, Recipe, RecipeError};

const EXAMPLES: &str = "\
Examples:
  autopeft select
  autopeft select --model roberta-base --data train.jsonl --budget 0.3% --out out/
  autopeft select --recipe mine.yaml --set train.learning_rate=5e-4 --target peft";

/// Measure the influence of every group, keep the best within the budget, export the trimmed adapter.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = EXAMPLES)]
pub struct SelectArgs {
    /// What is run, and where it goes.
    #[command(flatten)]
    pub run: RunArgs,

    /// Parameters to keep besides the head: a count, or a share of the model such as 0.3%
    #[arg(long, value_name = "N|N%", help_heading = "Selection")]
    pub budget: Option<String>,
    /// The rule that chooses groups
    #[arg(long, help_heading = "Selection", value_parser = PossibleValuesParser::new(Method::WORDS))]
    pub method: Option<String>,
    /// How slopes and curvature are measured
    #[arg(long, help_heading = "Selection", value_parser = PossibleValuesParser::new(Estimator::WORDS))]
    pub estimator: Option<String>,
    /// What makes a group: module, kind-layer, kind, or a YAML list of regular expressions
    #[arg(long, help_heading = "Selection", value_name = "GROUPING")]
    pub grouping: Option<String>,
}

impl SelectArgs {
    /// What the flags change in the recipe; `--set` has the last word.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = Overrides::default();
        self.run.add_to(&mut overrides);
        overrides.set("select.budget", "--budget", self.budget.as_ref());
        overrides.set("select.method", "--method", self.method.as_ref());
        overrides.set("probe.estimator", "--estimator", self.estimator.as_ref());
        overrides.set("probe.grouping", "--grouping", self.grouping.as_ref());
        overrides.finish(&self.run.set.set)
    }

    /// The recipe these flags ask for: that of `--recipe`; without it the defaults, or `quickstart` if neither a model
    /// nor data are named.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let overrides = self.overrides();
        let names_input =
            |change: &Override| matches!(change.path(), "model" | "data" | "data.train");
        match &self.run.recipe {
            Some(name) => Recipe::load(name, &overrides),
            None if overrides.iter().any(names_input) => {
                Recipe::read("the command line", "", &overrides)
            }
            None => Recipe::load("quickstart", &overrides),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::recipe::{DeviceChoice, Dtype, Grouping, Target};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: SelectArgs,
    }

    fn parse(arguments: &[&str]) -> SelectArgs {
        Program::try_parse_from(std::iter::once(&"autopeft").chain(arguments))
            .unwrap()
            .args
    }

    #[test]
    fn without_flags_the_quickstart_is_run() {
        let recipe = parse(&[]).recipe().unwrap();
        assert_eq!(recipe, Recipe::load("quickstart", &[]).unwrap());
        let recipe = parse(&["--budget", "2%", "--seed", "7"]).recipe().unwrap();
        assert_eq!((recipe.select.budget.as_str(), recipe.seed), ("2%", 7));
        assert_eq!(recipe.train, Recipe::load("quickstart", &[]).unwrap().train);
    }

    #[test]
    fn a_model_or_data_of_ones_own_starts_from_the_defaults() {
        let recipe = parse(&["--data", "rows #1.csv"]).recipe().unwrap();
        assert_eq!(recipe.data.train, "rows #1.csv");
        assert_eq!(recipe.train, Recipe::default().train);
        let recipe = parse(&["--set", "model=bert"]).recipe().unwrap();
        assert_eq!(recipe.train, Recipe::default().train);
    }

    #[test]
    fn every_flag_reaches_its_key() {
        let args = parse(&[
            "--model",
            "bert",
            "--revision",
            "v1",
            "--data",
            "a.csv",
            "--validation",
            "b.csv",
            "--text-column",
            "1",
            "--pair-column",
            "t2",
            "--label-column",
            "y",
            "--skip-bad-rows",
            "--budget",
            "5000",
            "--method",
            "top",
            "--estimator",
            "fit",
            "--grouping",
            "[query, value]",
            "--target",
            "peft",
            "--steps",
            "777",
            "--seed",
            "3",
            "--device",
            "cuda:1",
            "--dtype",
            "bf16",
            "--storage",
            "f16",
            "--checkpointing",
            "--force",
            "--threads",
            "2",
            "--out",
            "out",
            "--set",
            "select.top=4",
        ]);
        let mut expected = Recipe {
            model: "bert".into(),
            revision: "v1".into(),
            seed: 3,
            device: DeviceChoice::Cuda(1),
            dtype: Dtype::Bf16,
            storage: Some(Dtype::F16),
            ..Recipe::default()
        };
        expected.train.checkpointing = true;
        expected.data.train = "a.csv".into();
        expected.data.validation = Some("b.csv".into());
        expected.data.text_column = Some("1".into());
        expected.data.pair_column = Some("t2".into());
        expected.data.label_column = Some("y".into());
        expected.data.skip_bad_rows = true;
        expected.select.budget = "5000".into();
        expected.select.method = Method::Top;
        expected.select.top = 4;
        expected.probe.estimator = Estimator::Fit;
        expected.probe.grouping = Grouping::Patterns(vec!["query".into(), "value".into()]);
        expected.export.target = Target::Peft;
        expected.superset.bottleneck.enabled = false; // which that target cannot hold
        expected.export.force = true;
        expected.train.steps = Some(777);
        expected.train.epochs = None;
        assert_eq!(args.recipe().unwrap(), expected);
        assert_eq!(
            (args.run.out, args.run.compute.threads.unwrap().get()),
            (Some("out".into()), 2)
        );
    }

    #[test]
    fn set_has_the_last_word() {
        let recipe = parse(&["--set", "select.budget=9", "--budget", "5"])
            .recipe()
            .unwrap();
        assert_eq!(recipe.select.budget, "9");
    }

    #[test]
    fn a_fault_names_the_flag_that_made_it() {
        let error = parse(&["--budget", "0", "--device", "gpu"])
            .recipe()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`--budget 0`, `select.budget`: the budget `0` is not positive"),
            "{error}"
        );
        assert!(
            error.contains("`--device gpu`, `device`: expected one of `auto`"),
            "{error}"
        );
    }
}
