//! `autopeft eval`, `predict` and `inspect`: use and look at what is there.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::common::{ColumnArgs, ComputeArgs, ModelArgs, OverrideArgs, Overrides};
use crate::generate::SamplerOptions;
use crate::pipeline::GenerateOptions;
use crate::recipe::{Override, Recipe, RecipeError};

/// Measure an adapter on rows with labels or texts: accuracy, macro-F1, perplexity and so on.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  autopeft eval out/ --data test.jsonl")]
pub struct EvalArgs {
    /// Folder that `autopeft select` or `autopeft transfer` wrote
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Labelled rows
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: PathBuf,
    /// Which base model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Which columns.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Examples a forward pass
    #[arg(long, help_heading = "Compute", value_name = "N")]
    pub batch_size: Option<usize>,
    /// Language models: generate for so many distinct prompts and score by BLEU and ROUGE
    #[arg(
        long,
        value_name = "PROMPTS",
        help_heading = "Generation (language models)",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..)
    )]
    pub generate: Option<usize>,
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
    /// Where and how to compute.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl EvalArgs {
    /// The run's recipe with the flags over it.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        super::common::recipe_of(
            &self.dir,
            &use_overrides(&self.model, &self.columns, self.batch_size, &self.compute),
        )
    }
}

/// How text is generated.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Generation (language models)")]
pub struct GenerationArgs {
    /// Most new tokens (128 if not given)
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub max_new_tokens: Option<usize>,
    /// Divide the scores by this and draw; without it, and with 0, the likeliest token is taken
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temperature: Option<f64>,
    /// Draw among the likeliest tokens that have this probability together
    #[arg(long, value_name = "P", value_parser = top_p)]
    pub top_p: Option<f64>,
    /// Lower the scores of tokens that were there by this factor
    #[arg(long, value_name = "X", value_parser = repetition_penalty)]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A text that ends it, beside the model's own end; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, "at least 0", |t| t >= 0.0 && t.is_finite())
}

fn top_p(text: &str) -> Result<f64, String> {
    number(text, "from 0 to 1", |p| (0.0..=1.0).contains(&p))
}

fn repetition_penalty(text: &str) -> Result<f64, String> {
    number(text, "above 0, where 1 changes nothing", |x| {
        x > 0.0 && x.is_finite()
    })
}

/// A number within a range, which messages call `range`.
fn number(text: &str, range: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if holds(number) => Ok(number),
        _ => Err(format!("expected a number {range}")),
    }
}

impl GenerationArgs {
    /// The options these flags ask for.
    pub fn options(&self) -> GenerateOptions {
        let default = GenerateOptions::default();
        GenerateOptions {
            sampler: SamplerOptions {
                temperature: self.temperature.or(self.top_p.map(|_| 1.0)),
                top_p: self.top_p.unwrap_or(default.sampler.top_p),
                repetition_penalty: (self.repetition_penalty)
                    .unwrap_or(default.sampler.repetition_penalty),
                seed: self.seed.unwrap_or(default.sampler.seed),
            },
            max_new_tokens: self.max_new_tokens.unwrap_or(default.max_new_tokens),
            stop: self.stop.clone(),
        }
    }
}

/// Label rows, or go on with prompts: JSON lines `{"label": …, "probabilities": {…}}` or `{"completion": …}` in the
/// order of the rows; prompts from stdin are answered as plain text while it comes.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Examples:\n  autopeft predict out/ --data rows.jsonl\n  echo 'a fine film' | autopeft predict out/\n  echo 'Once upon a time' | autopeft predict out/ --max-new-tokens 40 --temperature 0.8 --top-p 0.95"
)]
pub struct PredictArgs {
    /// Folder that `autopeft select` or `autopeft transfer` wrote
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Rows to label; lines of text from stdin if not given
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: Option<PathBuf>,
    /// Which base model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Which columns.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Examples a forward pass
    #[arg(long, help_heading = "Compute", value_name = "N")]
    pub batch_size: Option<usize>,
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
    /// Where and how to compute.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl PredictArgs {
    /// The run's recipe with the flags over it.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        super::common::recipe_of(
            &self.dir,
            &use_overrides(&self.model, &self.columns, self.batch_size, &self.compute),
        )
    }
}

fn use_overrides(
    model: &ModelArgs,
    columns: &ColumnArgs,
    batch_size: Option<usize>,
    compute: &ComputeArgs,
) -> Vec<Override> {
    let mut overrides = Overrides::default();
    model.add_to(&mut overrides);
    columns.add_to(&mut overrides);
    overrides.set("train.batch_size", "--batch-size", batch_size.as_ref());
    compute.add_to(&mut overrides);
    overrides.finish(&[])
}

/// Show what is in a model or an adapter: sites, groups, parameter counts and shares.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:\n  autopeft inspect roberta-base\n  autopeft inspect out/")]
pub struct InspectArgs {
    /// A model (folder, hub id or `embedded:quickstart`), or the folder of an adapter
    #[arg(value_name = "PATH")]
    pub path: String,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// An embedded recipe, or a YAML file, whose superset is shown
    #[arg(long, help_heading = "Recipe", value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// Any key.
    #[command(flatten)]
    pub set: OverrideArgs,
}

impl InspectArgs {
    /// The recipe whose superset is shown, with the model named.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let mut overrides = Overrides::default();
        overrides.text("model", "PATH", Some(&self.path));
        overrides.text("revision", "--revision", self.revision.as_ref());
        let overrides = overrides.finish(&self.set.set);
        match &self.recipe {
            Some(name) => Recipe::load(name, &overrides),
            None => Recipe::read("the command line", "", &overrides),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    enum Program {
        Eval(EvalArgs),
        Predict(PredictArgs),
        Inspect(InspectArgs),
    }

    fn parse(arguments: &[&str]) -> Program {
        Program::try_parse_from(std::iter::once(&"autopeft").chain(arguments)).unwrap()
    }

    /// A folder with the recipe of a run.
    fn run() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::read("test", "model: bert\nseed: 5\n", &[]).unwrap();
        std::fs::write(dir.path().join("recipe.yaml"), recipe.resolved_yaml()).unwrap();
        dir
    }

    #[test]
    fn eval_and_predict_take_the_model_from_the_run_unless_it_has_moved() {
        let dir = run();
        let path = dir.path().to_str().unwrap();
        let Program::Eval(args) = parse(&["eval", path, "--data", "t.csv", "--batch-size", "64"])
        else {
            panic!("another verb")
        };
        let recipe = args.recipe().unwrap();
        assert_eq!(
            (recipe.model.as_str(), recipe.train.batch_size),
            ("bert", 64)
        );
        let Program::Predict(args) = parse(&["predict", path, "--model", "elsewhere/bert"]) else {
            panic!("another verb")
        };
        assert_eq!(args.recipe().unwrap().model, "elsewhere/bert");
        assert_eq!(args.data, None);
    }

    #[test]
    fn numbers_of_the_generation_are_within_their_ranges() {
        let sampled = |flag: &str, value: &str| {
            let flag = format!("{flag}={value}");
            Program::try_parse_from(["autopeft", "predict", "out", &flag])
        };
        for (flag, good, bad) in [
            (
                "--temperature",
                &["0", "0.8", "2"][..],
                &["-1", "nan", "inf", "hot"][..],
            ),
            ("--top-p", &["0.1", "1"], &["-0.5", "1.5", "nan"]),
            (
                "--repetition-penalty",
                &["0.5", "1.2"],
                &["0", "-1", "inf", "nan"],
            ),
            ("--max-new-tokens", &["1", "40"], &["0", "-1"]),
        ] {
            for value in good {
                assert!(sampled(flag, value).is_ok(), "{flag} {value}");
            }
            for value in bad {
                let error = sampled(flag, value).err().unwrap().to_string();
                assert!(error.contains(flag) && error.contains(value), "{error}");
            }
        }
        let none = [
            "autopeft",
            "eval",
            "out",
            "--data",
            "t.csv",
            "--generate",
            "0",
        ];
        assert!(Program::try_parse_from(none).is_err());
    }

    #[test]
    fn a_folder_without_a_recipe_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let Program::Predict(args) = parse(&["predict", dir.path().to_str().unwrap()]) else {
            panic!("another verb")
        };
        let error = args.recipe().unwrap_err();
        assert!(error.to_string().contains("recipe.yaml"), "{error}");
    }

    #[test]
    fn inspect_takes_its_model_as_an_argument() {
        let Program::Inspect(args) = parse(&[
            "inspect",
            "roberta-base",
            "--set",
            "superset.bias.enabled=false",
        ]) else {
            panic!("another verb")
        };
        let recipe = args.recipe().unwrap();
        assert_eq!(recipe.model, "roberta-base");
        assert!(!recipe.superset.bias.enabled);
    }
}
