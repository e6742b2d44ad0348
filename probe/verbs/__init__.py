"""What a person does: one room for each verb, and none leans on another."""
