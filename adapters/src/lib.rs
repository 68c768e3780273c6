//! Parameter-efficient fine-tuning modules for candle.
