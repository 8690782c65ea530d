"""Turn a model into artefacts and prove that they compute the same."""
