package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxEvent is the longest line of an event stream that a client accepts, in
// bytes: room for the status of some ten thousand sites.
const maxEvent = 8 << 20

// event is one line of an answer: any number of progress events, then one result
// or one error. Exactly one field is set.
type event struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *wireError      `json:"error,omitempty"`
}

var (
	// errMalformed reports an answer that is not an event stream.
	errMalformed = errors.New("malformed answer from the daemon")
	// errEnded reports an answer without an end.
	errEnded = errors.New("the daemon ended before it had answered")
)

// readEvents reads an answer from r up to its result, which it unmarshals into
// result. It hands on what it reads on the way to progress, which may be nil. If
// the answer is an error it returns that, as a *wireError.
func readEvents(r io.Reader, progress func(Progress), result any) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%w: %w", errMalformed, err)
		}
		switch {
		case e.Error != nil:
			return e.Error
		case e.Result != nil:
			if err := json.Unmarshal(e.Result, result); err != nil {
				return fmt.Errorf("%w: %w", errMalformed, err)
			}
			return nil
		case e.Progress == nil:
			return errMalformed
		case progress != nil:
			progress(*e.Progress)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return errEnded
}
