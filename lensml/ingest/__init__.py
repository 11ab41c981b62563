"""Files from outside: brought here whole, checked, and read without trusting what they say of themselves."""
