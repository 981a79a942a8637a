-- What a script has to do in other slots of a cluster. (A part: scripts begin with the parts they need.)
--
-- A script reaches the keys of one slot: that of KEYS[1], whose tag is `KEYS.tag` on a cluster, and nil elsewhere
-- (streams/transport/routing.py). What it has to do in another slot it puts into the outbox of its tag, a stream; it is forwarded
-- from there, in its order (streams/outbox.py), and done there by effects.lua. It may be done twice.
--
-- (All in one table, because a script may have no more than 200 local variables.)

local away = {}

do
  local slots = {}

  -- As `key_slot` in streams/transport/slots.py; sources have no braces in their names.
  local function slot_of(name)
    local known = slots[name]
    if not known then
      known = 0
      for i = 1, #name do
        known = bit.bxor(known, bit.lshift(string.byte(name, i), 8))
        for _ = 1, 8 do
          known = bit.lshift(known, 1)
          if bit.band(known, 0x10000) ~= 0 then
            known = bit.bxor(known, 0x11021)
          end
        end
      end
      known = known % 16384
      slots[name] = known
    end
    return known
  end

  -- Whether the keys of a source are in another slot.
  function away.is(source)
    return KEYS.tag ~= nil and source ~= KEYS.tag and slot_of(source) ~= slot_of(KEYS.tag)
  end

  local function needs()
    return { { 'XADD', 'actorwork:{' .. KEYS.tag .. '}:outbox', '0-0', 'to', '' } }
  end

  function away.lacks()
    return lacks('outbox', needs)
  end

  -- Does something in the slot of a source, or of another key: effects.lua says what there is. Returns its entry in the outbox.
  function away.act(to, what, ...)
    local values = { ... }
    if #values % 2 == 1 then
      values[#values + 1] = '' -- An entry has as many values as names.
    end
    return redis.call('XADD', 'actorwork:{' .. KEYS.tag .. '}:outbox', '*', 'to', to, 'do', what, unpack(values))
  end

  -- Publishes there, once for each mark.
  function away.publish(to, mark, terms, fields)
    redis.call('XADD', 'actorwork:{' .. KEYS.tag .. '}:outbox', '*', 'to', to, 'mark', mark, 'bit', '', 'terms', terms,
      unpack(fields))
  end
end
