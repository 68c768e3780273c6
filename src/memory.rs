//! What the process does with memory that it has freed or only read, and how much there is.
//!
//! A training step allocates and frees the same large buffers again and again. By default glibc gives them back to the
//! system each time, and the system clears every page anew when it is touched: 5 to 10 % of a step.

/// Keeps freed memory for the next buffer. For the start of a program; without effect where the C library is not glibc.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LIMIT: i32 = i32::MAX; // 2 GiB
        #[expect(
            unsafe_code,
            reason = "settings of the C library's allocator have no safe interface"
        )]
        // SAFETY: `mallopt` takes two numbers and changes settings of the allocator under its own lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LIMIT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LIMIT);
        }
    }
}

/// Takes the pages of a read-only file mapping out of the process's memory; reading them again reads the file. Never
/// for bytes that are not a mapped file: what they held would be lost. Without effect on other systems than Linux.
pub(crate) fn forget_mapped(bytes: &[u8]) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "advice on memory has no safe interface")]
        // SAFETY: the range is that of the slice, from the start of its first page, so it lies within the mapping.
        // The mapping is of a file and read-only, so a page that is taken away is read from the file again when it
        // is next touched, with the same bytes.
        unsafe {
            let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) else {
                return;
            };
            let start = bytes.as_ptr() as usize;
            let before = start % page.max(1);
            libc::madvise(
                (start - before) as *mut libc::c_void,
                bytes.len() + before,
                libc::MADV_DONTNEED,
            );
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = bytes;
}

/// Memory of the machine in bytes: all of it, and what is available. `None` where `/proc/meminfo` does not tell.
pub fn of_machine() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some((entry(&text, "MemTotal:")?, entry(&text, "MemAvailable:")?))
}

fn entry(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::entry;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24 kB\nMemAvailable:    7 kB\n";
        assert_eq!(entry(text, "MemTotal:"), Some(24 * 1024));
        assert_eq!(entry(text, "MemAvailable:"), Some(7 * 1024));
        assert_eq!(entry("MemTotal: much", "MemTotal:"), None);
        assert_eq!(entry(text, "SwapTotal:"), None);
    }
}
