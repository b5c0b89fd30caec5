// Package api is what a running node can be asked, and how one asks it from
// another process.
//
// A Service answers. There are two: the node itself, in process, and a Client,
// which asks the daemon that has the repository open. The daemon listens on a
// Unix socket inside the repository (Listen, NewServer) and speaks HTTP/1.1
// there. A Client behaves like the node behind it: the same results, progress,
// cancellation, and errors that errors.Is finds.
//
// The package knows nothing of how a question is answered. It guarantees that
// neither side reads more from the other than a fixed limit at a time, and that
// only the user who owns the repository can connect.
package api
