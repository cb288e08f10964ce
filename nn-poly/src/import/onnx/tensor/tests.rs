use super::super::proto::StringStringEntryProto;
use super::*;
use crate::error::Error;

fn tensor(dims: &[i64], data_type: i32) -> TensorProto {
    TensorProto { dims: dims.to_vec(), data_type, ..TensorProto::default() }
}

fn decode(tensor: &TensorProto) -> Result<Vec<f32>> {
    let array = Store::new(None).floats("w", tensor, &mut Budget::for_files_of(0))?;
    Ok(array.into_iter().collect())
}

fn fault(result: Result<Vec<f32>>) -> ImportError {
    match result {
        Err(Error::Import(fault)) => *fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_float_type_is_read_from_raw_bytes_and_from_fields() {
    let expected = [1.5, -0.0078125];
    let raw = |bytes: Vec<u8>, data_type| TensorProto {
        raw_data: bytes.into(),
        ..tensor(&[2], data_type)
    };
    let floats: Vec<u8> = expected.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
    let doubles: Vec<u8> = expected.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
    // 1.5 = 0x3e00, −2^−7 = 0xa000 in binary16; 0x3fc0 and 0xbc00 in bfloat16.
    for tensor in [
        raw(floats, element::FLOAT),
        raw(doubles, element::DOUBLE),
        raw(vec![0x00, 0x3e, 0x00, 0xa0], element::FLOAT16),
        raw(vec![0xc0, 0x3f, 0x00, 0xbc], element::BFLOAT16),
        TensorProto { float_data: expected.to_vec(), ..tensor(&[2], element::FLOAT) },
        TensorProto { double_data: vec![1.5, -0.0078125], ..tensor(&[2], element::DOUBLE) },
        TensorProto { int32_data: vec![0x3e00, 0xa000], ..tensor(&[2], element::FLOAT16) },
        TensorProto { int32_data: vec![0x3fc0, 0xbc00], ..tensor(&[2], element::BFLOAT16) },
    ] {
        assert_eq!(decode(&tensor).unwrap(), expected, "{tensor:?}");
    }
}

#[test]
fn claims_are_checked_against_what_is_there() {
    let short = TensorProto { float_data: vec![1.0], ..tensor(&[1 << 30], element::FLOAT) };
    assert!(matches!(fault(decode(&short)), ImportError::ArrayLength { actual: 1, .. }));
    let odd = TensorProto { raw_data: vec![0; 5].into(), ..tensor(&[1], element::FLOAT) };
    assert!(matches!(fault(decode(&odd)), ImportError::ArrayLength { .. }));
    for dims in [&[-1][..], &[i64::MAX, i64::MAX], &[1 << 21, 1 << 20], &[1; 9]] {
        let error = fault(decode(&tensor(dims, element::FLOAT)));
        assert!(matches!(error, ImportError::ArrayAxes { .. }), "{dims:?}");
    }
    let nan = TensorProto { float_data: vec![0.0, f32::NAN], ..tensor(&[2], element::FLOAT) };
    assert!(matches!(fault(decode(&nan)), ImportError::NonFinite { position: 1, .. }));
    let overflow = TensorProto { double_data: vec![1e300], ..tensor(&[1], element::DOUBLE) };
    assert!(matches!(fault(decode(&overflow)), ImportError::NonFinite { .. }));
    assert!(matches!(fault(decode(&tensor(&[0], 8))), ImportError::ElementType { .. }));
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
        key: key.into(),
        value: value.into(),
    };
    TensorProto {
        data_location: EXTERNAL,
        external_data: entries.iter().map(entry).collect(),
        ..tensor(&[2], element::FLOAT)
    }
}

#[test]
fn external_data_stay_inside_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let bytes: Vec<u8> = [0.0_f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("w.data"), &bytes).unwrap();
    std::fs::write(root.path().join("secret.data"), &bytes).unwrap();
    let read = |tensor: &TensorProto| {
        let mut store = Store::new(Some(folder.clone()));
        let array = store.floats("w", tensor, &mut Budget::for_files_of(0))?;
        Ok(array.into_iter().collect::<Vec<f32>>())
    };
    let whole = external(&[("location", "w.data"), ("offset", "4"), ("length", "8")]);
    assert_eq!(read(&whole).unwrap(), [1.0, 2.0]);
    assert_eq!(read(&external(&[("location", "w.data"), ("offset", "4")])).unwrap(), [1.0, 2.0]);
    let secret = root.path().join("secret.data");
    let mut outside = vec!["../secret.data", secret.to_str().unwrap(), "", ".", "a/../w.data"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&secret, folder.join("link.data")).unwrap();
        outside.push("link.data");
    }
    for location in outside {
        let error = fault(read(&external(&[("location", location)])));
        assert!(matches!(error, ImportError::OutsideFolder { .. }), "{location}");
    }
    for (offset, length) in [("8", "8"), ("18446744073709551615", "8"), ("-1", "8"), ("0", "x")] {
        let tensor = external(&[("location", "w.data"), ("offset", offset), ("length", length)]);
        assert!(matches!(fault(read(&tensor)), ImportError::ExternalRange { .. }), "{offset}");
    }
    let missing = read(&external(&[("location", "absent.data")]));
    assert!(matches!(missing, Err(Error::Io { .. })));
    let error = fault(decode(&whole));
    assert!(matches!(error, ImportError::NoFolder { .. }));
}
