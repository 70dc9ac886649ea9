"""Everything that imports torch: capture, interpretation, linearisation, kernels, witnesses."""
