import pytest

from recordings.units import doubts_about_breathing, factor_between, is_known, is_unspecified


@pytest.mark.parametrize(
    ("have", "want", "factor"),
    [
        ("V", "mV", 1000), ("uV", "mV", 0.001), ("µV", "uV", 1), ("μV", "µV", 1), ("mV", "MV", 1),
        ("L/s", "L/min", 60), ("mL/s", "L/min", 0.06), ("l/min", "L/s", 1 / 60), ("LPM", "L/min", 1),
        ("hPa", "cmH2O", 100 / 98.0665), ("cm H2O", "Pa", 98.0665), ("mbar", "hPa", 1), ("CMH20", "cmH₂O", 1),
        ("kPa", "mmHg", 7.500615758), ("g", "m/s2", 9.80665), ("m/s²", "g", 1 / 9.80665), ("mg", "g", 0.001),
        ("bpm", "1/min", 1), ("Hz", "1/min", 60), ("°C", "degC", 1), ("C", "°C", 1), ("pct", "%", 1),
        ("kΩ", "Ohm", 1000), ("uS", "mS", 0.001), ("furlong", "Furlong ", 1), ("degr.", "°", 1),
    ],
)  # fmt: skip
def test_units_of_one_quantity_convert(have, want, factor):
    assert factor_between(have, want) == pytest.approx(factor, rel=1e-6)
    assert factor_between(want, have) == pytest.approx(1 / factor, rel=1e-6)


@pytest.mark.parametrize(("have", "want"), [("mV", "L/min"), ("furlong", "m"), ("%", "1/min"), ("L", "L/s"), ("", "V")])
def test_units_of_different_quantities_do_not_convert(have, want):
    assert factor_between(have, want) is None


def test_what_is_known_and_what_is_unspecified():
    assert is_known("µV") and is_known("cmh20") and not is_known("furlong") and not is_known("")
    assert is_unspecified(" ") and is_unspecified("nu") and is_unspecified("a.u.")
    assert not is_unspecified("%")


def test_channels_that_cannot_show_a_breathing_pause_are_doubted():
    units = {"flow": "L/min", "leak": "L/min", "belt": "a.u.", "spo2": "%", "Nasal": "V"}
    right = {"flow": "airflow", "leak": "other", "belt": "effort", "spo2": "oximetry", "Nasal": "airflow"}
    assert doubts_about_breathing(units, right) == []
    (doubt,) = doubts_about_breathing(units, right | {"Nasal": "other"})
    assert doubt.startswith("channel Nasal looks like airflow") and "channels.Nasal.measures" in doubt
    computed = dict.fromkeys(("minute_ventilation", "target_ventilation", "flow_limitation"), "L/min")
    assert doubts_about_breathing(units | computed, right | dict.fromkeys(computed, "other")) == []
    none, flow = doubts_about_breathing({"q": "mL/s"}, {"q": "other"})
    assert none.startswith("no channel measures airflow or effort") and flow.startswith("channel q looks like airflow")
