//! `autopeft transfer`: a choice, carried to a larger model.

use std::path::PathBuf;

use clap::Args;

use super::common::{Overrides, recipe_of};
use super::run::RunArgs;
use crate::cli::Failure;
use crate::pipeline::Training;
use crate::recipe::{Override, Recipe, RecipeError};

const EXAMPLES: &str = "\
Examples:
  autopeft transfer out/ --model roberta-large --out large/
  autopeft transfer out/ --model roberta-large --data train.jsonl --out large/";

/// Carry the choice of a result to a larger model of the same family, without a probe: with --data the adapter is trained,
/// without it the adapter changes nothing yet, for Hugging Face PEFT to train.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = EXAMPLES, mut_arg("model", |model| model.required(true)))]
pub struct TransferArgs {
    /// Folder that `autopeft select` wrote; its recipe counts where no flag says otherwise
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// What is run, and where it goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl TransferArgs {
    /// What the flags change in the recipe; `--set` has the last word.
    pub fn overrides(&self) -> Vec<Override> {
        // What the recipe says of its own model's revision and of its own output does not hold for another one.
        let mut overrides = Overrides::default();
        overrides.text("revision", "--model", Some(&"main".to_owned()));
        overrides.set("export.force", "--out", Some(&false));
        self.run.add_to(&mut overrides);
        overrides.finish(&self.run.set.set)
    }

    /// The recipe of the result with the flags over it; with `--recipe` that one, in which superset and grouping stay those
    /// of the result, since the choice is made of them.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let mut overrides = self.overrides();
        let Some(name) = &self.run.recipe else {
            return recipe_of(&self.result, &overrides);
        };
        let mut recipe = Recipe::load(name, &overrides)?;
        let parts = |path: &str| {
            path.starts_with("superset") || path == "probe.grouping" || path == "export.target"
        };
        overrides.retain(|change| parts(change.path()));
        let chosen = recipe_of(&self.result, &overrides)?;
        recipe.superset = chosen.superset;
        recipe.probe.grouping = chosen.probe.grouping;
        Ok(recipe)
    }

    /// Whether rows were named to train on.
    pub fn training(&self) -> Training {
        let names_rows = |change: &Override| matches!(change.path(), "data" | "data.train");
        if self.overrides().iter().any(names_rows) {
            Training::WholeHorizon
        } else {
            Training::None
        }
    }

    /// Refuses what would be ignored: settings of rows and of their training, where no rows to train on are named.
    ///
    /// # Errors
    /// Names the first of them.
    pub fn check_training(&self) -> Result<(), Failure> {
        let of_training = |change: &&Override| {
            change.path().starts_with("data.") || change.path().starts_with("train.")
        };
        let overrides = self.overrides();
        match overrides.iter().find(of_training) {
            Some(change) if self.training() == Training::None => Err(Failure::new(format!(
                "`{}` is for training, and there are no rows to train on",
                change.flag()
            ))
            .hint("name them with `--data`, or leave it out")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::recipe::Grouping;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: TransferArgs,
    }

    fn parse(arguments: &[&str]) -> TransferArgs {
        Program::try_parse_from(std::iter::once(&"autopeft").chain(arguments))
            .unwrap()
            .args
    }

    /// The folder of a result as far as its recipe goes.
    fn result() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let changes = [
            "model=small",
            "revision=v7",
            "export.force=true",
            "seed=5",
            "superset.lora.rank_blocks=[2, 6]",
            "probe.grouping=kind-layer",
        ];
        let changes: Vec<Override> = changes.iter().map(|s| s.parse().unwrap()).collect();
        let recipe = Recipe::read("test", "", &changes).unwrap();
        std::fs::write(folder.path().join("recipe.yaml"), recipe.resolved_yaml()).unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn the_larger_model_has_to_be_named() {
        let error = Program::try_parse_from(["autopeft", "out"]).unwrap_err();
        assert!(error.to_string().contains("--model <MODEL>"), "{error}");
    }

    #[test]
    fn the_recipe_is_that_of_the_result_but_for_its_model_and_output() {
        let (_folder, path) = result();
        let args = parse(&[&path, "--model", "large", "--set", "select.refit=3"]);
        let recipe = args.recipe().unwrap();
        assert_eq!(
            (recipe.model.as_str(), recipe.revision.as_str()),
            ("large", "main")
        );
        assert!(!recipe.export.force);
        assert_eq!((recipe.seed, recipe.select.refit), (5, 3));
        assert_eq!(recipe.superset.lora.rank_blocks, [2, 6]);
        let forced = parse(&[&path, "--model", "large", "--revision", "v2", "--force"]);
        let recipe = forced.recipe().unwrap();
        assert_eq!(
            (recipe.revision.as_str(), recipe.export.force),
            ("v2", true)
        );
    }

    #[test]
    fn another_recipe_leaves_what_the_choice_is_made_of() {
        let (_folder, path) = result();
        let args = parse(&[
            &path,
            "--model",
            "large",
            "--recipe",
            "causal-lm",
            "--target",
            "peft",
        ]);
        let recipe = args.recipe().unwrap();
        let own = Recipe::load("causal-lm", &[]).unwrap();
        assert_eq!((recipe.train, recipe.task), (own.train, own.task));
        assert_eq!(recipe.superset.lora.rank_blocks, [2, 6]);
        assert_eq!(recipe.probe.grouping, Grouping::KindLayer);
        assert!(!recipe.superset.bottleneck.enabled);
    }

    #[test]
    fn it_trains_where_rows_are_named() {
        assert_eq!(
            parse(&["out", "--model", "large"]).training(),
            Training::None
        );
        for rows in [["--data", "rows.csv"], ["--set", "data.train=rows.csv"]] {
            let args = parse(&["out", "--model", "large", rows[0], rows[1]]);
            assert_eq!(args.training(), Training::WholeHorizon, "{rows:?}");
        }
    }

    #[test]
    fn what_is_for_training_needs_rows_to_train_on() {
        let check = |arguments: &[&str]| {
            let large = ["out", "--model", "large"];
            let result = parse(&[&large, arguments].concat()).check_training();
            result.map_err(|error| error.to_string())
        };
        for unused in [
            &["--validation", "dev.jsonl"][..],
            &["--steps", "100"],
            &["--skip-bad-rows"],
            &["--set", "train.learning_rate=1e-3"],
        ] {
            let error = check(unused).unwrap_err();
            assert!(error.contains(&unused.join(" ")), "{error}");
            assert_eq!(check(&[unused, &["--data", "rows.csv"]].concat()), Ok(()));
        }
        assert_eq!(check(&["--seed", "3", "--target", "peft"]), Ok(()));
    }
}
