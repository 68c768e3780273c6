//! The device on which the tests compute: what `AUTOPEFT_TEST_DEVICE` says, `cpu` (the default) or `cuda`.
//!
//! The same tests hold for every device; `tests/gpu.sh` runs them on a GPU.

use std::sync::OnceLock;

use candle_core::Device;

/// Opened once: tensors of two handles to one GPU do not mix.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match name().as_str() {
        "cpu" => Device::Cpu,
        "cuda" => Device::new_cuda(0).expect("a GPU, and a build with `--features cuda`"),
        other => panic!("AUTOPEFT_TEST_DEVICE is `{other}`; it can be `cpu` or `cuda`"),
    })
}

/// As the program's `--device` takes it.
pub fn name() -> String {
    std::env::var("AUTOPEFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_string())
}
