package cuda

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// uuidPrefix begins the UUIDs of GPUs.
const uuidPrefix = "GPU-"

// CheckSelector is an error where a string is not what [Open] takes for a device.
func CheckSelector(which string) error {
	if n, err := strconv.Atoi(which); which == "" || err == nil && n >= 0 || len(which) > len(uuidPrefix) && strings.HasPrefix(which, uuidPrefix) {
		return nil
	}
	return fmt.Errorf("device %q: want a number from 0, or a UUID that begins with %s", which, uuidPrefix)
}

// listed is one of the driver's devices.
type listed struct {
	device     driver.Device
	name, uuid string
}

// list asks the driver for its devices, in its order.
func list(api *driver.API) ([]listed, error) {
	var count int32
	if err := api.Err("cuDeviceGetCount", api.DeviceGetCount(&count)); err != nil {
		return nil, err
	}
	if count < 1 {
		return nil, ErrNoDevice
	}
	all := make([]listed, count)
	for i := range all {
		var name [256]byte
		var uuid driver.UUID
		d := &all[i].device
		for _, c := range []struct {
			call string
			do   func() driver.Result
		}{
			{"cuDeviceGet", func() driver.Result { return api.DeviceGet(d, int32(i)) }},
			{"cuDeviceGetName", func() driver.Result { return api.DeviceGetName(&name[0], int32(len(name)), *d) }},
			{"cuDeviceGetUuid", func() driver.Result { return api.DeviceGetUUID(&uuid, *d) }},
		} {
			if err := api.Err(c.call, c.do()); err != nil {
				return nil, fmt.Errorf("device %d: %w", i, err)
			}
		}
		all[i].name, all[i].uuid = driver.String(&name[0], len(name)), uuid.String()
	}
	return all, nil
}

// choose takes the device that a selector names. Errors list those that are there.
func choose(all []listed, which string) (listed, error) {
	var found []listed
	if n, err := strconv.Atoi(which); which == "" {
		found = all[:1]
	} else if err == nil && n < len(all) {
		found = all[n : n+1]
	} else if err != nil {
		for _, l := range all {
			if strings.HasPrefix(l.uuid, uuidPrefix+strings.ToLower(which[len(uuidPrefix):])) {
				found = append(found, l)
			}
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var there []string
	for i, l := range all {
		there = append(there, fmt.Sprintf("%d is %s (%s)", i, l.name, l.uuid))
	}
	what := "is not there"
	if found != nil {
		what = fmt.Sprintf("may be any of %d", len(found))
	}
	return listed{}, fmt.Errorf("device %s %s: %s", which, what, strings.Join(there, ", "))
}
