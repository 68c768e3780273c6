//! x
pub const FOLDER: &str = "bottleneck";
pub(crate) fn read(_f: &std::path::Path, _l: &mut crate::plan::Loaded) -> crate::Result<()> {
    Ok(())
}
