//! What a run reads is not where it writes.

use std::path::Path;

use crate::error::{Error, Result};

/// A folder or file that a run reads.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What it is, as in `the base model`.
    pub role: &'static str,
    /// Its path. A name without one, such as a hub id, is in nobody's way.
    pub path: &'a Path,
}

impl<'a> Input<'a> {
    /// An input in this role.
    pub fn new(role: &'static str, path: &'a (impl AsRef<Path> + ?Sized)) -> Self {
        Self {
            role,
            path: path.as_ref(),
        }
    }
}

/// Refuses an output that is one of the inputs, or contains one. An output within an input replaces nothing of it.
///
/// # Errors
/// [`Error::OutputIsInput`] names the input.
pub fn check_inputs(out: &Path, inputs: &[Input<'_>]) -> Result<()> {
    let Ok(place) = out.canonicalize() else {
        return Ok(()); // Nothing is there that could be replaced.
    };
    for Input { role, path } in inputs {
        let Ok(read) = path.canonicalize() else {
            continue;
        };
        let relation = if read == place {
            format!("is {role}")
        } else if read.starts_with(&place) {
            format!("contains {role} `{}`", path.display())
        } else {
            continue;
        };
        return Err(Error::OutputIsInput {
            path: out.to_path_buf(),
            relation,
        });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_output_may_be_within_an_input_but_not_around_it() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("project/model")).unwrap();
        fs::write(path("project/train.jsonl"), "").unwrap();
        let (model, rows) = (path("project/model"), path("project/train.jsonl"));
        let inputs = [
            Input::new("the base model", &model),
            Input::new("the training rows", &rows),
            Input::new("the base model", "organisation/name"),
        ];
        let relation = |out: &str| match check_inputs(&path(out), &inputs) {
            Err(Error::OutputIsInput { relation, .. }) => Some(relation),
            other => {
                other.unwrap();
                None
            }
        };
        assert_eq!(relation("project/model").unwrap(), "is the base model");
        assert_eq!(
            relation("project/../project/model").unwrap(),
            "is the base model"
        );
        assert_eq!(
            relation("project/train.jsonl").unwrap(),
            "is the training rows"
        );
        assert!(
            relation("project")
                .unwrap()
                .starts_with("contains the base model `")
        );
        assert_eq!(relation("project/model/out"), None);
        assert_eq!(relation("project/out"), None);
        fs::create_dir(path("project/model/out")).unwrap();
        assert_eq!(relation("project/model/out"), None);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_what_it_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let (model, link) = (root.path().join("model"), root.path().join("link"));
        fs::create_dir(&model).unwrap();
        std::os::unix::fs::symlink(&model, &link).unwrap();
        for (read, out) in [(&model, &link), (&link, &model)] {
            let input = [Input::new("the base model", read)];
            assert!(check_inputs(out, &input).is_err());
        }
    }
}
