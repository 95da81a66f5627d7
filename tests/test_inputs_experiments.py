"""The examples of `experiments/inputs`: text, a table, an image with numbers."""

import jax
import numpy as np
import pytest

import jaxnas
from experiments.inputs import tabular, text, two_inputs

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def test_a_table_is_searched_and_what_was_found_beats_a_straight_line(capsys):
    x, y, x_test, y_test = tabular.read()
    plane = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    of_the_plane = 1 - np.mean((np.c_[x_test, np.ones(len(x_test))] @ plane - y_test) ** 2)
    found, trained = tabular.main()
    assert set(found.arch) == {"layer0", "layer1", "behind"}
    assert trained.history[-1]["test_r_squared"] > of_the_plane - 0.02
    assert f"test R² {trained.history[-1]['test_r_squared']:.3f}" in capsys.readouterr().out


def test_the_second_input_is_searched_with_the_image():
    found, trained = two_inputs.main(epochs=6)
    assert found.arch["meet"] != 0  # the image alone tells one half of the labels
    assert trained.test_accuracy > 0.9


def write(folder):
    """Sentences in which a word says the next but one."""
    random = np.random.RandomState(0)
    for part, n in (("train", 600), ("test", 100)):
        lines = []
        for _ in range(n):
            first = random.randint(0, 20)
            words = [first, random.randint(0, 20), first, random.randint(0, 20), first][: random.randint(3, 6)]
            lines.append(" " + " ".join(f"w{word}" for word in words) + " ")
        (folder / f"ptb.{part}.txt").write_text("\n".join(lines) + "\n")


def test_sentences_are_read_as_words_that_predict_the_next(tmp_path):
    (tmp_path / "ptb.train.txt").write_text(" a b a \n a <unk> \n")
    (tmp_path / "ptb.test.txt").write_text(f" b {'a ' * 40}\n")
    x, y, x_test, _ = text.read(tmp_path, words=4)
    assert x["tokens"].shape == x["mask"].shape == y["next"].shape == (2, text.LENGTH)
    np.testing.assert_array_equal(x["tokens"][0, :5], [0, 2, 3, 2, 0])
    np.testing.assert_array_equal(y["next"][0, :4], [2, 3, 2, 0])
    np.testing.assert_array_equal(x["mask"].sum(1), [4, 3])
    np.testing.assert_array_equal(x_test["tokens"][0, :4], [0, 3, 2, 2])
    assert x_test["mask"].all()  # a long sentence is cut


def test_text_is_searched_by_darts_and_enas(tmp_path):
    write(tmp_path)
    for method in ("darts", "enas"):
        found, trained = text.main(tmp_path, method=method, words=22, epochs=4)
        assert set(found.arch) == {"back0", "act0", "back1", "act1"}
        # The end of a sentence is a fifth of what follows, and some 0.44 can be known from the words before.
        assert 0.33 < trained.history[-1]["test_accuracy"] < 0.55


def test_no_word_is_predicted_from_itself_or_later_ones():
    random = np.random.RandomState(0)
    tokens = random.randint(0, 30, (1, text.LENGTH)).astype(np.int32)
    mask = np.arange(text.LENGTH)[None] < 20
    for back in ("attention", "lstm", "convolution"):
        arch = {"back0": back, "back1": back, "act0": 0, "act1": 0}
        model = jaxnas.apply_fixed_architecture(text.Net(words=30), arch)
        variables = model.init(jax.random.key(0), {"tokens": tokens, "mask": mask})
        changed = tokens.copy()
        changed[0, 10:] = (changed[0, 10:] + 1) % 30
        one, other = (model.apply(variables, {"tokens": each, "mask": mask}) for each in (tokens, changed))
        np.testing.assert_allclose(one[0, :10], other[0, :10], atol=1e-6)
        assert np.abs(one[0, 10:20] - other[0, 10:20]).max(-1).min() > 1e-3
