"""Journeys by public transport."""
