"""Training what will be quantized: fake quantization, schedules, the check against what runs, and distillation."""
