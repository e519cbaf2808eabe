package kerneltest

import "testing"

func TestRegistered(t *testing.T) { Registered(t) }
