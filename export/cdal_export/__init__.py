"""Export: a model folder with weights, manifest and engines that were held against the float32 reference."""
