"""What studies give: a frozen dataclass for each, as stores and files hold it; pages, recipes and commands read these."""
