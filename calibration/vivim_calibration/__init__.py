"""INT8 calibration of exported models (ranges, explicit Q/DQ, sensitivity). Nothing is implemented yet."""
