"""What random audits of accepted drafts prove: saving, quality, drift, and how many it takes."""
