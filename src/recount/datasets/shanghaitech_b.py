"""ShanghaiTech part B: street photographs of one city, layout and annotations as part A.

The test split has 39,208 heads in one public edition of the annotations (FIDTM) and 39,121 in another (SAFECount). Some
processed copies lack one training image (399); they are refused.
"""

from recount.datasets.shanghaitech_a import ShanghaiTech


class ShanghaiTechB(ShanghaiTech):
    """716 street photographs."""

    name = "shanghaitech_b"
    part = "B"


DATASET = ShanghaiTechB()
