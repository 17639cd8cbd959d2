"""The suite proves itself: a healthy transport passes, and each of many broken ones fails what it breaks."""
