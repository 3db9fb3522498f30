"""Parts larger than units: residual blocks and experts, found, scored and removed."""
