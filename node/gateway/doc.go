// Package gateway serves the sites that a node can reach to web browsers, as an
// IPFS HTTP gateway (specs.ipfs.tech/http-gateways) meant for the machine it runs
// on.
//
// It owns what stands between a browser and a block: which Host headers are
// answered, which origin a page runs in, how long a reader may wait, and what an
// error looks like. UnixFS, MIME types, ranges and ETags are boxo/gateway's. It
// refuses to know where blocks come from: a Getter hands them over. Names (IPNS,
// DNSLink) are not resolved, and nothing is ever asked of the DNS.
//
// # Origins
//
// Pages of one site must not reach the data of another, so each site runs in an
// origin of its own:
//
//   - http://CID.ipfs.localhost:PORT/ is the origin of the site with that root.
//     Chrome, Edge, Firefox and curl resolve such names to the loopback address
//     by themselves.
//   - http://localhost:PORT/ipfs/CID redirects there.
//   - http://127.0.0.1:PORT/ipfs/CID, or any other IP address that is the host,
//     answers with the bytes. A browser that loads a document from a loopback
//     address (Sec-Fetch-Mode: navigate) is redirected to the site's origin.
//
// Not everyone can follow that redirect. Safari asks the system's resolver, which
// on macOS does not know names below localhost; a browser on another machine
// would look for the site on itself; and the label of a long CID does not fit the
// DNS. They get the page in place. So whatever is served in place carries
// "Content-Security-Policy: sandbox" without allow-same-origin: the browser puts
// each such document into an opaque origin, which shares storage, cookies and
// service workers with nothing. Scripts run, but cannot store data, and links
// that begin with a slash miss the site. Service workers are refused in place.
//
// One hole remains: browsers count all sites below ipfs.localhost as one site
// (though not one origin), so a page can set a cookie that another page reads.
//
// Every other Host is refused, which ends DNS rebinding: a page of evil.example
// that points its name at 127.0.0.1 still sends its own name. Headers by which
// proxies override the Host are dropped.
//
// # Guarantees
//
// Bytes sent match the CID they were asked for under. A response that cannot be
// completed is cut off, and never ends like a complete one. A reader waits at
// most RetrievalTimeout for the next byte, one that does not read is cut off
// after StallTimeout, and neither bounds the length of a download.
package gateway
