"""From a spec to evaluated, converted artifacts: steps and their cache."""
