#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| securedl_tests::decoders::run("safetensors", bytes));
