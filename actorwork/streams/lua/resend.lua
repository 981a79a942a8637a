-- How a dead letter is sent again. (A part: scripts begin with the parts they need.)

-- Returns the error if a right is lacking: a letter that was sent and could not be removed would be sent again.
local function lacking_to_resend(prefix, letters)
  return redis.acl_check_cmd and lacks('replaying', function()
    local needs = needs_of_order(prefix)
    needs[#needs + 1] = { 'XDEL', letters, '0-0' }
    return needs
  end)
end

-- Sends `fields` for the letter at `entry`, whose own fields are `facts`, and removes the letter; returns an error or nil.
local function resend(prefix, letters, entry, facts, fields, headers)
  fields = readdressed(fields, facts['id'], headers, facts['group'])
  local place, problem = enter(prefix, member_for(prefix, facts['id'], facts['group'], entry), fields)
  if not place then
    return problem
  end
  lives.revive(prefix, facts['id'], by_name(fields), place)
  redis.call('XDEL', letters, entry)
  return nil
end
