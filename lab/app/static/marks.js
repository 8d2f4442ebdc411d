watch("value", () => document.dispatchEvent(new Event("lh-marks")));
