package dag

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// The consume functions take one piece of protobuf off the front of b. Unlike
// protowire's, they refuse varints that are longer than they need be, so that a
// message has one form only.

var errLongVarint = errors.New("varint longer than it need be")

func consumeVarint(b []byte) (v uint64, rest []byte, err error) {
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, nil, protowire.ParseError(n)
	}
	if n != protowire.SizeVarint(v) {
		return 0, nil, errLongVarint
	}
	return v, b[n:], nil
}

func consumeTag(b []byte) (protowire.Number, protowire.Type, []byte, error) {
	v, rest, err := consumeVarint(b)
	if err != nil {
		return 0, 0, nil, err
	}
	num, typ := protowire.DecodeTag(v)
	if !num.IsValid() {
		return 0, 0, nil, errors.New("invalid field number")
	}
	return num, typ, rest, nil
}

// consumeBytes returns a part of b, never nil.
func consumeBytes(b []byte) (body, rest []byte, err error) {
	n, rest, err := consumeVarint(b)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(rest)) {
		return nil, nil, errors.New("length beyond the end of the message")
	}
	return rest[:n:n], rest[n:], nil
}
