//! Networks trained elsewhere, from the file to predictions.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{folder, run, succeed, text};

/// A graph from the tests of the importer.
fn graph(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn-poly/tests/fixtures/onnx");
    folder.join(name)
}

#[test]
fn a_scikit_learn_network_is_imported_compiled_and_run_encrypted() {
    let folder = folder("import");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    // Two half circles, as the network was trained on; labels are the classes onnxruntime answers. These
    // points, where the half circles are closest, it puts into the other one.
    const OTHER: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 8, 10];
    let mut table = String::from("x,y,label\n");
    for i in 0..80 {
        let (angle, class) = (f64::from(i / 2) * std::f64::consts::PI / 40.0, i % 2);
        let (x, y) = if class == 0 {
            (angle.cos(), angle.sin())
        } else {
            (1.0 - angle.cos(), 0.5 - angle.sin())
        };
        let answer = if OTHER.contains(&i) { 1 - class } else { class };
        writeln!(table, "{x:.4},{y:.4},{answer}").unwrap();
    }
    fs::write(path("moons.csv"), table).unwrap();
    fs::write(path("names.txt"), "0 upper\n1 lower\n").unwrap();

    let file = graph("sklearn_binary.onnx");
    let (model, plan, report) = (path("moons.model"), path("moons.plan"), path("report.json"));
    let arguments = ["import", text(&file), "--labels", &path("names.txt"), "--out", &model];
    let said =
        succeed(&[&arguments[..], &["--input-scale", "raw:2.5", "--json", &report]].concat());
    for expected in ["operator set 15", "sigmoid at the end", "(−z, z)", "MatMul", "dense 8"] {
        assert!(said.stdout.contains(expected), "`{expected}` in\n{}", said.stdout);
    }
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["layers"], serde_json::json!(["dense", "relu", "dense", "relu", "dense"]));
    assert_eq!(report["classes"], serde_json::json!(["upper", "lower"]));
    assert_eq!(report["left_out_ending"], "sigmoid");
    assert!(succeed(&["inspect", &model]).stdout.contains("elsewhere"));

    let data = path("moons.csv");
    // Labels are numbers here, the classes of the model have names.
    let refused = run(&["fine-tune", &model, "--data", &data, "--out", &path("tuned.model")]);
    assert_eq!(refused.code, Some(2));
    for expected in ["class 0 is `0` in", "and `upper` in the model", "--labels FILE"] {
        assert!(refused.stderr.contains(expected), "`{expected}` in\n{}", refused.stderr);
    }
    let samples = ["--expected-samples", "16", "--bits", "6/6/6"];
    succeed(&[&["compile", &model, "--calibrate", &data, "--out", &plan], &samples[..]].concat());
    let predictions = path("predictions.csv");
    succeed(&["infer", "--plan", &plan, "--data", &data, "--local", "--out", &predictions]);
    let lines = fs::read_to_string(predictions).unwrap();
    let rows = lines.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let right = rows.clone().filter(|row| Some(&row[1]) == row.last()).count();
    assert!(right * 10 >= rows.count() * 9, "{lines}");
}

/// A table as people have them: classes are words in a column of their own name.
#[test]
fn a_table_with_named_classes_is_trained_on_and_classified() {
    let folder = folder("named-classes");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut table = String::from("length,species,width\n");
    for i in 0..90 {
        let (species, center) = [("setosa", 1.0), ("iris", 3.0), ("virginica", 5.0)][i % 3];
        let spread = f64::from(u32::try_from(i % 7).unwrap()) / 20.0;
        writeln!(table, "{},{species},{}", center + spread, center - spread).unwrap();
    }
    let data = path("flowers.csv");
    fs::write(&data, table).unwrap();
    let (model, plan) = (path("flowers.model"), path("flowers.plan"));
    let train = ["train", "--data", &data, "--network", "mlp", "--epochs", "20", "--out", &model];

    let refused = run(&train);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("column `species`: `setosa`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--label-column COLUMN"), "{}", refused.stderr);

    let column = ["--label-column", "species"];
    succeed(&[&train[..], &column].concat());
    let compile = ["compile", &model, "--calibrate", &data, "--out", &plan];
    succeed(&[&compile[..], &["--expected-samples", "18"], &column].concat());
    let predictions = path("predictions.csv");
    let infer = ["infer", "--plan", &plan, "--data", &data, "--local", "--out", &predictions];
    succeed(&[&infer[..], &column].concat());
    let lines = fs::read_to_string(&predictions).unwrap();
    let mut rows = lines.lines().map(|line| line.split(',').collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap().last(), Some(&"label"));
    let rows = rows.collect::<Vec<_>>();
    let right = rows.iter().filter(|row| Some(&row[1]) == row.last()).count();
    assert!(rows.len() == 18 && right >= 16, "{lines}");

    // Other data, in another order and with fewer classes: names decide.
    let other = path("other.csv");
    fs::write(&other, "length,species,width\n5.1,virginica,4.9\n1.1,setosa,0.9\n").unwrap();
    let infer = ["infer", "--plan", &plan, "--data", &other, "--split", "all", "--simulate"];
    let rest = ["--accept-unverified", "--out", &predictions];
    succeed(&[&infer[..], &rest, &column].concat());
    for line in fs::read_to_string(&predictions).unwrap().lines().skip(1) {
        let row = line.split(',').collect::<Vec<_>>();
        assert_eq!(Some(&row[1]), row.last(), "{line}");
    }
    fs::write(&other, "length,species,width\n5.1,rose,4.9\n").unwrap();
    let refused = run(&[&infer[..], &rest, &column].concat());
    assert_eq!(refused.code, Some(2));
    let expected =
        "class `rose` of the data is none of the model's classes: iris, setosa, virginica";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
}

#[test]
fn what_cannot_be_imported_is_told_in_one_error_and_leaves_nothing() {
    let folder = folder("bad-import");
    let out = folder.join("out.model");
    let table = graph("sklearn_binary.onnx");
    let image = graph("pytorch_cnn.onnx");
    let early = graph("relu_first.onnx");
    let hostile = folder.join("hostile.toml");
    let description = "weights = \"\\u001b[31m.npz\"\ninput = [2]\norder = \"channels-first\"\n\
                       [[layers]]\nkind = \"dense\"\nweights = \"w\"\n";
    fs::write(&hostile, description).unwrap();
    let names = folder.join("names.txt");
    fs::write(&names, "0 a\n1 b\n").unwrap();
    let cases: [(&Path, &[&str], &str); 11] = [
        (&early, &[], "cannot run encrypted because of Relu `r` (opset 17)"),
        (&early, &[], "layer 0 (relu) of the folded network has no integer form"),
        (&hostile, &[], "is not in the folder of the importing file"),
        (&table, &[], "nothing says how the features of this table were scaled"),
        (&table, &["--input-scale", "-1"], "unknown input scale"),
        (&table, &["--input-scale", "raw:2", "--input-shape", "1x3x1"], "input shape"),
        (&table, &["--input-scale", "raw:2", "--output", "zz"], "there is no output `zz`"),
        (&table, &["--input-scale", "0,0,0/1,1,1"], "one per channel or feature"),
        (&table, &["--input-clip", "0"], "--input-clip is 0"),
        (&image, &["--labels", text(&names)], "2 labels for a network with 5 scores"),
        (&names, &[], "neither ONNX (.onnx) nor a description (.toml)"),
    ];
    for (file, extra, expected) in cases {
        let finished = run(&[&["import", text(file), "--out", text(&out)], extra].concat());
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(expected), "`{expected}` in\n{}", finished.stderr);
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
        assert!(!finished.stderr.contains('\u{1b}') && !finished.stderr.contains("--bits"));
        assert!(!out.exists());
    }
}

/// Images with their channels last and no transposition: the shape of the samples is theirs.
#[test]
fn a_perceptron_on_images_reads_them_with_channels_last() {
    let folder = folder("import-keras");
    let model = folder.join("k.model");
    let file = graph("keras_mlp.onnx");
    let base = ["import", text(&file), "--out", text(&model)];
    for (shape, expected) in [(None, "4×5×3"), (Some("4x5x3"), "4×5×3"), (Some("5x3x4"), "5×3×4")]
    {
        let option = shape.map_or(vec![], |shape| vec!["--input-shape", shape]);
        let said = succeed(&[&base[..], &option].concat());
        assert!(said.stdout.contains(expected), "`{expected}` in\n{}", said.stdout);
    }
}
