"""The documents that chip files name by a short key."""

DOCUMENTS = {
    "ISCA23": "MTIA: First Generation Silicon for Recommendation Systems, ISCA'23, doi:10.1145/3579371.3589348",
    "ISCA25": "Meta's Second Generation AI Chip, ISCA'25, doi:10.1145/3695053.3731409",
    "ISCA26": "MTIA 300: Meta's First Training Chip Featuring Built-in NICs, ISCA'26, doi:10.1109/ISCA66397.2026.00085",
    "HCCL": "HCCL: Collective Communication for MTIA, arXiv:2608.00358 (through digests)",
    "HC26": "Meta's Custom AI Silicon, Hot Chips 2026, slides (through digests)",
    "HC24": "Meta at Hot Chips 2024 (press coverage)",
    "BLOG23": "Meta AI blog, 2023, first-generation MTIA (press reproduction)",
    "BLOG24": "Meta AI blog, 2024, next-generation MTIA (press reproduction)",
    "BLOG26": "Meta AI blog, 11 March 2026, Four MTIA Chips in Two Years (table as reproduced by the press)",
    "TRITORX": "Agentic Operator Generation for ML ASICs, arXiv:2512.10977",
    "Helion": "github.com/pytorch/helion, test skip reasons for MTIA",
}
