"""Remote code: files that exports of looped models carry so that transformers can run them. Not imported here."""
