from visuomotor.models.report import TensorReport


def test_only_what_is_left_out_on_purpose_keeps_a_report_complete() -> None:
    assert TensorReport(loaded=("a",), ignored=("b",)).complete
    for kind in ("missing", "unexpected"):
        assert not TensorReport(**{kind: ("a",)}).complete
    assert not TensorReport(mismatched=(("a", (1,), (2,)),)).complete


def test_summary_counts_all_and_names_a_few() -> None:
    report = TensorReport(
        loaded=("a", "b"), ignored=tuple(f"head.{i}" for i in range(7)), mismatched=(("c", (5, 2), (3, 2)),)
    )
    assert report.summary() == str(report)
    assert report.summary() == (
        "2 tensors loaded, 7 ignored (head.0, head.1, head.2, head.3, head.4, and 2 more), "
        "1 mismatched (c: [5, 2] against [3, 2])"
    )
