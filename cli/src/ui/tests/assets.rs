//! The files of the page.

use crate::ui::assets::ASSETS;

#[test]
fn the_page_is_whole_and_asks_nobody_else() {
    let paths: Vec<&str> = ASSETS.iter().map(|(path, ..)| *path).collect();
    for (path, _, content) in &ASSETS {
        for foreign in ["http://", "https://", "//cdn", "@import", "url(", "innerHTML", "eval("] {
            assert!(!content.contains(foreign), "{path} has {foreign}");
        }
        for (_, rest) in
            content.match_indices(" from \"./").map(|(at, m)| (at, &content[at + m.len()..]))
        {
            let module = format!("/{}", rest.split('"').next().unwrap());
            assert!(paths.contains(&module.as_str()), "{path} wants {module}");
        }
    }
    let page = ASSETS[0].2;
    // What the policy would refuse anyway.
    for inline in [" style=", " onclick=", " onload=", "<style", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for source in page.split("src=\"").skip(1).chain(page.split("href=\"/").skip(1)) {
        let named = source.split('"').next().unwrap().trim_start_matches('/');
        assert!(paths.contains(&format!("/{named}").as_str()), "{named}");
    }
}
