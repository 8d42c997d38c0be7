"""The daemons that are compared, each with the configuration it does best with. One file each."""

from .exim import Exim
from .opensmtpd import OpenSMTPD
from .postfix import Postfix
from .relayd import Relayd

PEERS = {kind.name.lower(): kind for kind in (Relayd, Postfix, OpenSMTPD, Exim)}
