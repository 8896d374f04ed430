"""`python -m agd.verify results/`"""

from agd.verify.command import main

main()
