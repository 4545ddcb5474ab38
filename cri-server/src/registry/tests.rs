use super::*;

#[test]
fn a_prefix_finds_one_or_says_why_not() {
    let map: BTreeMap<String, u8> = [("aa11", 1), ("aa22", 2), ("ab33", 3)]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
    assert_eq!(unique("x", "ab", &map).unwrap(), 3);
    assert_eq!(unique("x", "aa22", &map).unwrap(), 2);
    assert!(matches!(unique("x", "aa", &map), Err(Error::Ambiguous { .. })));
    for none in ["", "b", "aa33", "zz", "../"] {
        assert!(
            matches!(unique("x", none, &map), Err(Error::NotFound { .. })),
            "{none:?}"
        );
    }
}
