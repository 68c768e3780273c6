//! x
pub const CONFIG_FILE: &str = "adapter_config.json";
pub(crate) fn read(_f: &std::path::Path, _l: &mut crate::plan::Loaded) -> crate::Result<()> {
    Ok(())
}
